"""A fleet of real WebSocket nodes, to try a scheduler with: they register, heartbeat, change, drop and come back."""
