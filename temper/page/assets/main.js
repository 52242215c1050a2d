// The page, in order.

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

hero();
for (const draw of [happened, results, curves, distributions, rollouts, examples, theRun]) {
  // One part of the page that meets data it cannot draw must not take the others with it.
  try { draw(); } catch (error) {
    document.querySelector('main').append(h('p', { class: 'note failed' }, `A part of this page could not be drawn: ${error.message}`));
    console.error(error);
  }
}
if (!data.steps.length && !data.episodes.length) {
  document.querySelector('main').append(h('p', { class: 'empty' }, 'Nothing has been recorded yet. The page fills as the run takes its first steps.'));
}
