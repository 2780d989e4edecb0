"""What the network is: SigLIP, Gemma, the action expert, their joint attention, the assembled Pi05."""
