"""`python -m paretopress`."""

from paretopress.commands.cli import main

if __name__ == "__main__":
    main()
