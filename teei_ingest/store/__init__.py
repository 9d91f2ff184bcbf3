"""The event tables and the SQL over them; nothing about where events come from."""
