"""What was decided: frozen dataclasses, composed by Hydra and validated. Only this room knows OmegaConf."""
