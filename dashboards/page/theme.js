// Runs before the first paint, so that a chosen theme does not flash; see also app.js.
try {
  const chosen = localStorage.getItem("mobifarm-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch { /* no storage: the system's theme stays */ }
