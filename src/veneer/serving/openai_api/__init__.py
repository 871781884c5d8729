"""OpenAI's interface: the routes for chats and completions."""
