"""What the commands show in a terminal: one file for each verb, and what they share."""
