"""The routes of the studio: files, jobs, runs, tasks and chats."""
