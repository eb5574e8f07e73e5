"""The group Hessian as a linear operator: losses, modules, cheaper products, several processes."""
