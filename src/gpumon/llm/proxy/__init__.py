"""The proxy before a model server: passes bytes on as they are, and measures requests by a copy of them."""
