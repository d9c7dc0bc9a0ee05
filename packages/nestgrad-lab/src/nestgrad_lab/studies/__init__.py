"""Studies: questions with numbers and pictures of their own, as chapters 2 and 3 of Lorraine's thesis ask them."""
