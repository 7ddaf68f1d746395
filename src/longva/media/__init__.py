"""Videos, images, animations and folders of frames: exact frames and times, chosen and resized."""
