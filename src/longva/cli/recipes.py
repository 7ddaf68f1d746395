"""`longva recipes`: those that come with longva, listed and shown."""

from typing import Annotated

import typer

from longva.cli.console import app, out

recipes = typer.Typer(rich_markup_mode=None)
app.add_typer(recipes, name="recipes", invoke_without_command=True)


@recipes.callback()
def list_recipes(context: typer.Context) -> None:
    """List the recipes that come with longva: name, command, what it is.

    Run one by its name:

    longva extend toy/extend --dry-run

    Change a key with --set, or more in a copy:

    longva recipes show toy/extend > my.yaml
    """
    if context.invoked_subcommand:
        return
    from longva.recipes.shipped import shipped_recipes

    shipped = shipped_recipes()
    for recipe in shipped:
        name = recipe.name.ljust(max(len(recipe.name) for recipe in shipped))
        command = recipe.command.ljust(max(len(recipe.command) for recipe in shipped))
        out.print(f"{name}  {command}  {recipe.summary}")
    out.print("\nRun: longva COMMAND NAME.   Copy: longva recipes show NAME > my.yaml")


@recipes.command()
def show(name: Annotated[str, typer.Argument(help="Of the recipe.")]) -> None:
    """Print a recipe, to read it or to make one of your own.

    longva recipes show niah_visual > my.yaml
    """
    from longva.recipes.shipped import find_recipe

    typer.echo(find_recipe(name).read_bytes(), nl=False)
