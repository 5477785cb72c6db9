// Runs before the first paint: the chosen theme, if one was chosen; else the system's holds.
"use strict";
{
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
