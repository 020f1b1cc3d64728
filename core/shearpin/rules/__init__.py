"""What may stop a run, one file a rule, and what the rules count with: prices and token estimates."""
