"""What a group's loss is averaged over: samples, class groups, memory, where they come from."""
