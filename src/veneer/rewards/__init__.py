"""What sampled answers are worth: functions, commands and metrics, each asked so that it can fail without harm."""
