"""What each command does, from its recipe to what is printed; `ressa.run.run_recipe` chooses among them."""
