"""What the commands show in a terminal: a file for each verb, and what they share."""
