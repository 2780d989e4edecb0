"""What was decided: frozen dataclasses, their composition by Hydra and their validation. Only this room knows OmegaConf."""
