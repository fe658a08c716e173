"""`python -m paretopress`."""

from paretopress.cli import main

if __name__ == "__main__":
    main()
