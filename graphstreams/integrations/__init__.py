"""What serving engines need beside the backend: each module is for one engine, and imports it only when it is asked for."""
