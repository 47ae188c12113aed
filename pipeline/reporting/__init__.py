"""What the scores say: rules, statistics, tables, Markdown and the page. Never imports torch."""
