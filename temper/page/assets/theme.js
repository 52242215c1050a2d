// Light, dark, or as the system says; the choice is remembered.

const themes = ['auto', 'light', 'dark'];
const paintTheme = (theme) => {
  document.documentElement.dataset.theme = theme;
  document.getElementById('theme').textContent = { auto: 'Auto', light: 'Light', dark: 'Dark' }[theme];
};
// Storage may be refused to a file opened from disk; the choice then lasts as long as the page.
const remembered = () => { try { return localStorage.getItem('temper-theme'); } catch { return null; } };
const remember = (theme) => { try { localStorage.setItem('temper-theme', theme); } catch { /* as above */ } };
paintTheme(themes.includes(remembered()) ? remembered() : 'auto');
document.getElementById('theme').addEventListener('click', () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
  paintTheme(next);
  remember(next);
});
