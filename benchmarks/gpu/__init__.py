"""A GPU session in one command: everything that only a card can tell, part by part."""
