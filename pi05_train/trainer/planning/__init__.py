"""What a run will need, forecast without an accelerator: `pi05 plan`."""
