"""`python -m caffeio` is the command `caffeio`."""

from caffeio.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m caffeio")
