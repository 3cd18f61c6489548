// Sets the theme before anything is painted. Not a module: those run later.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem('kvd.theme');
  } catch {
    // Storage may be forbidden; the system's theme it is.
  }
  if (theme === 'light' || theme === 'dark') {
    document.documentElement.dataset.theme = theme;
  }
})();
