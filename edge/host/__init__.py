"""The processes of one box. This package runs workers and sees nothing beneath them."""
