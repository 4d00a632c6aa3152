"""``python -m headstart`` is the program ``headstart``."""

from headstart.cli import main

if __name__ == "__main__":
    main()
