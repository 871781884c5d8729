"""OpenAI's interface: the routes that chats and completions are asked through."""
