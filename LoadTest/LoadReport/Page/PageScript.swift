// What a page does where scripts run: who points at a chart reads what stands there. All else works
// without.

enum PageScript {
  static let source: Markup = """
    'use strict';
    (() => {
      const make = (name, kind, text) => {
        const element = document.createElement(name);
        element.className = kind;
        element.textContent = text;
        return element;
      };
      const charts = [];
      for (const figure of document.querySelectorAll('figure.chart')) {
        const lines = figure.dataset.chart.split('\\n').map((line) => line.split('|'));
        if (lines.length < 2) continue;
        const plot = figure.querySelector('.plot');
        const crosshair = make('div', 'crosshair', '');
        const readout = make('div', 'readout', '');
        crosshair.hidden = readout.hidden = true;
        plot.append(crosshair, readout);
        const entries = lines[0].map((entry) => {
          const space = entry.indexOf(' ');
          return [entry.slice(0, space), entry.slice(space + 1)];
        });
        charts.push({
          figure, plot, crosshair, readout, entries, readings: lines.slice(1),
          group: figure.dataset.group,
        });
      }
      const show = (chart, place) => {
        const distance = (reading) => Math.abs(reading[0] - place);
        const nearest = chart.readings.reduce((a, b) => (distance(b) < distance(a) ? b : a));
        const table = make('table', '', '');
        chart.entries.forEach(([tone, name], index) => {
          const row = table.insertRow();
          const cell = row.insertCell();
          cell.append(make('i', tone, ''), name);
          row.insertCell().textContent = nearest[index + 2];
        });
        chart.readout.replaceChildren(make('b', '', nearest[1]), table);
        chart.crosshair.hidden = chart.readout.hidden = false;
        const at = (nearest[0] / 1000) * chart.plot.clientWidth;
        chart.crosshair.style.left = at + 'px';
        const width = chart.readout.offsetWidth;
        const right = at + 12 + width <= chart.plot.clientWidth;
        chart.readout.style.left = (right ? at + 12 : Math.max(at - 12 - width, -40)) + 'px';
      };
      const together = (chart) =>
        charts.filter((other) => other === chart || (chart.group && other.group === chart.group));
      for (const chart of charts) {
        chart.plot.addEventListener('pointermove', (event) => {
          const box = chart.plot.getBoundingClientRect();
          const place = ((event.clientX - box.left) / box.width) * 1000;
          for (const other of together(chart)) show(other, place);
        });
        chart.plot.addEventListener('pointerleave', () => {
          for (const other of together(chart)) other.crosshair.hidden = other.readout.hidden = true;
        });
      }
    })();
    """
}
