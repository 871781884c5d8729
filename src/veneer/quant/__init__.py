"""Block quantisation: maths (`codes`) and the frozen, quantised linear layer (`linear`)."""
