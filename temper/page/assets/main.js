// The page, in order.

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
