"""What every command found: frozen values, the JSON that they are kept in, and the tables that show them."""
