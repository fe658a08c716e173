"""`python -m paretopress`."""

from paretopress.commands.app import main

if __name__ == "__main__":
    main()
