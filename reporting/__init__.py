"""What is told of networks: the results table, the verdict, the HTML report, model cards, predictions drawn."""
