"""What the pages are made of: templates, styles, scripts, and the chart library uPlot, which is inlined under its MIT licence."""
