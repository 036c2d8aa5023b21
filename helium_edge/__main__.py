"""`python -m helium_edge`: the same as the command `helium-edge`."""

from helium_edge.cli.main import main

if __name__ == "__main__":
    main()
