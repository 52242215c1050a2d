// The page of a comparison: arms that are shown, rows in order, the axis of the curves, figures as files.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const off = new Set();

const show = () => {
  for (const button of all('button[data-toggle]')) button.setAttribute('aria-pressed', String(!off.has(button.dataset.toggle)));
  for (const part of all('[data-arm]')) part.classList.toggle('off', off.has(part.dataset.arm));
};
for (const button of all('button[data-toggle]')) {
  button.addEventListener('click', () => {
    const arm = button.dataset.toggle;
    if (!off.delete(arm)) off.add(arm);
    show();
  });
}
for (const button of all('button[data-all]')) {
  button.addEventListener('click', () => {
    off.clear();
    if (button.dataset.all === 'none') for (const each of all('button[data-toggle]')) off.add(each.dataset.toggle);
    show();
  });
}

const filter = document.querySelector('#filter');
filter?.addEventListener('input', () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of all('tbody tr[data-arm]')) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
});

const key = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent;
for (const button of all('th button')) {
  button.addEventListener('click', () => {
    const head = button.closest('th'), body = head.closest('table').tBodies[0], column = head.cellIndex;
    const down = head.getAttribute('aria-sort') !== 'descending';
    for (const other of head.parentElement.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const order = (a, b) => {
      const [x, y] = [key(a, column), key(b, column)], numbers = x !== '' && y !== '' && !isNaN(x) && !isNaN(y);
      return (numbers ? x - y : x.localeCompare(y)) * (down ? -1 : 1);
    };
    body.append(...[...body.rows].sort(order));
  });
}

const axis = document.querySelector('#axis');
axis?.addEventListener('change', () => {
  for (const figure of all('figure[data-axis]')) figure.hidden = figure.dataset.axis !== axis.value;
});

// A figure as a document of its own: on white, in plain colours, without what is hidden.
const alone = (figure) => {
  const copy = figure.querySelector('svg').cloneNode(true), style = document.createElementNS(copy.namespaceURI, 'style');
  for (const part of all('.off', copy)) part.remove();
  style.textContent = document.querySelector('#plain').content.textContent;
  const ground = document.createElementNS(copy.namespaceURI, 'rect'), { width, height } = figure.querySelector('svg').viewBox.baseVal;
  for (const [name, value] of Object.entries({ width, height, fill: '#fff' })) ground.setAttribute(name, value);
  for (const [name, value] of Object.entries({ width, height })) copy.setAttribute(name, value);
  copy.prepend(style, ground);
  return { text: new XMLSerializer().serializeToString(copy), width, height, name: copy.dataset.name };
};
const save = (blob, name) => {
  const link = Object.assign(document.createElement('a'), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
for (const button of all('button[data-save]')) {
  button.addEventListener('click', async () => {
    const { text, width, height, name } = alone(button.closest('figure')), vector = new Blob([text], { type: 'image/svg+xml' });
    if (button.dataset.save === 'svg') return save(vector, `${name}.svg`);
    const image = new Image(), canvas = Object.assign(document.createElement('canvas'), { width: 3 * width, height: 3 * height });
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas.toBlob((blob) => save(blob, `${name}.png`), 'image/png');
  });
}
