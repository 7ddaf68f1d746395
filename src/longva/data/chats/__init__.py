"""Conversations and preferences about images and videos."""
