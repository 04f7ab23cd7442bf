"""What speaks to Azure: clouds, credential, client, budget headers and errors."""
