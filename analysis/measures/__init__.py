"""One measure a module: spectrum ends, saddle verdict, landscape, convexity; measurement puts them together."""
