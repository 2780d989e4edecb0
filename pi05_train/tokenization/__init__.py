"""What text, boxes, states and actions are as tokens."""
