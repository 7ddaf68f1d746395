"""Files and folders: written whole, one run at a time, and whose folder it is."""
