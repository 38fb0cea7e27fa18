"""What is true: values and transition tables. No I/O, no clock, no logger; time comes in as an argument."""
