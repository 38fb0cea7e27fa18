// Draws only the rows in view of a long list that scrolls with the page. Every row has the same height; rows are keyed.
import { Component, h } from "../lib.js";

const MORE = 12; // rows beyond either edge

export class Rows extends Component {
  state = { first: 0, last: 60 };
  #due = 0;
  #body = null;
  #hold = (body) => { this.#body = body; };
  #look = () => {
    if (this.#due) return;
    this.#due = requestAnimationFrame(() => { this.#due = 0; this.#measure(); });
  };

  componentDidMount() {
    addEventListener("scroll", this.#look, { passive: true });
    addEventListener("resize", this.#look, { passive: true });
    this.#measure();
  }

  componentDidUpdate() {
    this.#look();
  }

  componentWillUnmount() {
    removeEventListener("scroll", this.#look);
    removeEventListener("resize", this.#look);
    cancelAnimationFrame(this.#due);
  }

  #measure() {
    if (!this.#body) return;
    const { height, items } = this.props;
    const top = -this.#body.getBoundingClientRect().top;
    const first = Math.max(0, Math.min(Math.floor(top / height) - MORE, items.length - 1));
    const last = Math.max(first, Math.ceil((top + innerHeight) / height) + MORE);
    if (first !== this.state.first || last !== this.state.last) this.setState({ first, last });
  }

  render({ items, height, row, columns }) {
    const first = Math.min(this.state.first, Math.max(0, items.length - 1));
    const last = Math.min(this.state.last, items.length);
    const pad = (key, rows) => rows > 0 && h("tr", { key, class: "pad", "aria-hidden": "true" }, h("td", { colSpan: columns, style: { height: `${rows * height}px` } }));
    return h("tbody", { ref: this.#hold, role: "rowgroup" }, pad("above", first), items.slice(first, last).map(row), pad("below", items.length - last));
  }
}
