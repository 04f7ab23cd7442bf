"""The pictures of the dashboards in the README: ``make pictures`` draws them anew."""
