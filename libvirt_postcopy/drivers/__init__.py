"""How a migration is carried out."""
