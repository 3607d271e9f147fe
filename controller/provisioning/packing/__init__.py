"""What the agent's runtime archives are made of and how they are packed."""
