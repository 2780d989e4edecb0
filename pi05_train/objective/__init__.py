"""What training minimises: text cross-entropy, flow matching, and their sum per stage."""
