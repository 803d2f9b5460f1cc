"""The nouns of edgepv: frozen values that travel between the rooms, and their JSON form. Unknown is None."""
