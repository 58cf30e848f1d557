// The module of our widgets: this folder's files, one after another. Two kinds of model share it.
// A `page` is made once for a kernel and never shown: it gives the finished views of this page,
// which are plain HTML, their buttons. A `live` view shows a run while it goes on. Model output
// only ever becomes text nodes.

export default {
  initialize({ model }) {
    if (model.get("role") === "page") return openPage(model);
    return follow(model);
  },
  render: renderLive,
};
