"""`python -m m3qdrant` is the command `m3qdrant`."""

from m3qdrant.cli import main

main()
